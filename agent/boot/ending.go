package boot

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// lastPlace is where systemd looks for the program of an initramfs that is to end the machine (systemd-shutdown(8), "The
// initrd interface"): when all else has ended it makes this folder the root and becomes `/shutdown`, with the verb after it.
const lastPlace = "/run/initramfs/shutdown"

// IsEnding says whether these arguments of process 1 are those of systemd's last step.
func IsEnding(arguments []string) bool { return len(arguments) > 1 && arguments[0] == "/shutdown" }

// End restarts the machine, whatever the verb: that is what ends it where its power cannot be switched off, and a machine
// that halts should not stay either. The file systems that systemd could not unmount are written out first.
func End() {
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// stayForTheEnd leaves a copy of this program there, if systemd is what the machine is handed over to. A copy, since the
// initramfs is gone by then; it takes a few megabytes of memory, so only machines that need it have one.
func stayForTheEnd(program string) error {
	if path, err := filepath.EvalSymlinks(program); err != nil || filepath.Base(path) != "systemd" {
		return err
	}
	return copyProgram("/proc/self/exe", lastPlace)
}

func copyProgram(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
