package boot

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"

	"banger/agent/identity"
	"banger/agent/port"
	"banger/agent/power"
	"banger/agent/serve"
)

// The server's lines from and to process 1.
const (
	ear   = 3
	mouth = 4
)

// IsServer says whether these arguments are those of the server that process 1 starts.
func IsServer(arguments []string) bool { return len(arguments) == 3 && arguments[0] == serverName }

// Server is the other half of process 1: it serves the daemon, at first from the initramfs, then from inside the root.
func Server(version string, arguments []string) error {
	syscall.CloseOnExec(ear)
	syscall.CloseOnExec(mouth)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	asked := readOptions()
	inside := &inside{layer: -1, tell: os.NewFile(mouth, "process 1")}
	machine := serve.NewMachine(version)
	machine.Identified.Store(arguments[1] == "identified")
	machine.Identify = inside.identify
	machine.HostKeys = identity.HostKeys
	machine.PowerOff = func() { power.Off(inside.layer, asked.reset) }
	machine.HasInit = func() bool { return findInit("") != "" }
	go inside.listen(machine)
	from, err := open(asked, arguments[2] == firstLife)
	if err != nil {
		return err
	}
	return serve.Forever(from, machine)
}

// open is the way to the daemon. The connections of a server that died end with it, but for those of a serial port.
func open(asked options, first bool) (port.Port, error) {
	if asked.vsock != "" {
		number, err := strconv.ParseUint(asked.vsock, 10, 32)
		if err != nil {
			return nil, err
		}
		return port.Vsock(uint32(number))
	}
	from, err := port.Virtio(asked.port)
	if err == nil && !first {
		serve.Disown(from)
	}
	return from, err
}

// inside is what the server keeps of the root that it has entered. layer is written before the machine is ready.
type inside struct {
	layer int
	tell  *os.File
}

func (i *inside) listen(machine *serve.Machine) {
	for lines := bufio.NewScanner(os.NewFile(ear, "process 1")); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "root":
			path, layer, _ := strings.Cut(rest, " ")
			machine.Ready(i.enter(path, layer))
		case "error":
			machine.Ready(rest)
		}
	}
}

func (i *inside) enter(path, layer string) (problem string) {
	if layer != "" {
		if fd, err := syscall.Open(layer, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0); err == nil {
			i.layer = fd
		}
	}
	if path == "/" {
		return ""
	}
	if err := syscall.Chroot(path); err != nil {
		return "chroot " + path + ": " + err.Error()
	}
	if err := syscall.Chdir("/"); err != nil {
		return "chdir /: " + err.Error()
	}
	return ""
}

func (i *inside) identify(text []byte) ([]string, error) {
	var request identity.Request
	if err := serve.Parse(text, &request); err != nil {
		return nil, err
	}
	keys, err := identity.Apply(&request)
	if err == nil {
		_, _ = i.tell.WriteString("identified\n") // fails once process 1 is another program, which is as well
	}
	return keys, err
}
