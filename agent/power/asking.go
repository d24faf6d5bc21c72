package power

import (
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"syscall"
)

const (
	systemdPowerOff = syscall.Signal(34 + 4) // SIGRTMIN+4, see systemd(1)
	systemdRestart  = syscall.Signal(34 + 5)

	// What sysvinit reads from its pipe (initreq.h of sysvinit): a record of one length, whatever is asked for.
	sysvMagic, sysvLevel, sysvLength = 0x03091969, 1, 384
	// sysvGrace is how long, in seconds, those of sysvinit's own processes that do not belong to the new runlevel may take.
	sysvGrace = 1
)

// ask tells process 1 to end the machine in the way that its kind documents. False: it is of no kind that is known here, or
// hears nothing yet.
func ask(reset bool) bool {
	signal, busybox, level, word := systemdPowerOff, syscall.SIGUSR2, "0", "poweroff"
	if reset {
		signal, busybox, level, word = systemdRestart, syscall.SIGTERM, "6", "reboot"
	}
	switch program(1) {
	case "systemd":
		return syscall.Kill(1, signal) == nil
	case "busybox":
		return syscall.Kill(1, busybox) == nil
	case "init":
		return tell("/run/initctl", sysvRequest(level[0])) || tell("/dev/initctl", sysvRequest(level[0]))
	case "openrc-init":
		return tell("/run/openrc/init.ctl", []byte(word))
	case "runit":
		found := runitInit("/sbin/init", "/sbin/runit-init", "/usr/bin/runit-init")
		return found != "" && exec.Command(found, level).Run() == nil
	}
	return false
}

// sysvRequest asks sysvinit for a runlevel.
func sysvRequest(level byte) []byte {
	text := make([]byte, sysvLength)
	for place, value := range []uint32{sysvMagic, sysvLevel, uint32(level), sysvGrace} {
		binary.NativeEndian.PutUint32(text[4*place:], value)
	}
	return text
}

// tell writes to a named pipe at whose other end somebody reads; it never waits.
func tell(path string, text []byte) bool {
	pipe, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(pipe)
	var what syscall.Stat_t
	if syscall.Fstat(pipe, &what) != nil || what.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return false
	}
	count, err := syscall.Write(pipe, text)
	return err == nil && count == len(text)
}

// runitInit is runit's program for this, which knows where its own runit looks; it may be called /sbin/init.
func runitInit(places ...string) string {
	for _, place := range places {
		if path, err := filepath.EvalSymlinks(place); err == nil && filepath.Base(path) == "runit-init" {
			return path
		}
	}
	return ""
}
