// Package power ends a machine in an orderly way: through its init where it has one, else with its own hands.
//
// Idea: an init of a kind that is known is asked in its own way (asking.go). Otherwise the processes get TERM, up to two
// seconds and KILL; then the file systems are written out, the root made read-only, the writable layer frozen (which
// leaves it as clean as an unmount would), and the power goes. Nothing here returns control on success.
package power

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	grace      = 2 * time.Second
	freezeCall = 0xc0045877 // FIFREEZE
)

// Off powers the machine off. layer is a descriptor inside the writable layer below the root, or negative. With reset the
// machine restarts instead, which is what ends it where the VMM has no switch for its power (Firecracker).
func Off(layer int, reset bool) {
	if ask(reset) {
		return
	}
	end := syscall.LINUX_REBOOT_CMD_POWER_OFF
	if reset {
		end = syscall.LINUX_REBOOT_CMD_RESTART
	}
	endAll()
	syscall.Sync()
	_ = syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	if layer >= 0 {
		var unused int
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(layer), freezeCall, uintptr(unsafe.Pointer(&unused)))
	}
	_ = syscall.Reboot(end)
}

func program(pid int) string {
	path, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return filepath.Base(path)
}

// Quiet ends what runs beside process 1 and this one, so that nothing is written any more but what is asked for.
func Quiet() {
	if others() > 0 {
		endAll()
	}
}

// endAll ends every process but this one and process 1, which kill(-1) spares both.
func endAll() {
	_ = syscall.Kill(-1, syscall.SIGTERM)
	_ = syscall.Kill(-1, syscall.SIGCONT)
	for end := time.Now().Add(grace); time.Now().Before(end) && others() > 0; {
		time.Sleep(20 * time.Millisecond)
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	for end := time.Now().Add(grace / 4); time.Now().Before(end) && others() > 0; {
		time.Sleep(5 * time.Millisecond)
	}
}

// others counts the living processes of user space beside us and process 1; kernel threads have no program.
func others() (count int) {
	folder, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && pid != 1 && pid != os.Getpid() && program(pid) != "." {
			count++
		}
	}
	return count
}
