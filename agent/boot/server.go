package boot

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
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
	machine.Quiet = power.Quiet
	machine.HasInit = inside.handsOver.Load
	machine.Command.Signal = inside.signal
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
	layer     int
	tell      *os.File
	handsOver atomic.Bool // whether process 1 is about to become another program
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
		case "stays":
			i.handsOver.Store(false)
		case "command":
			machine.Command.Hear(rest)
		}
	}
}

// signal has process 1 pass a signal on to the command: it alone knows whether that number is still the command's.
func (i *inside) signal(number int) {
	_, _ = i.tell.WriteString("signal " + strconv.Itoa(number) + "\n")
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
	request := struct {
		identity.Request
		Init first `json:"init"`
	}{}
	if err := serve.Parse(text, &request); err != nil {
		return nil, err
	}
	keys, err := identity.Apply(&request.Request)
	if err == nil {
		err = i.settle(request.Init)
	}
	return keys, err
}

// settle prepares what the image's configuration asks for, and tells process 1 what to become.
func (i *inside) settle(asked first) error {
	if asked.Cwd != "" {
		if err := os.MkdirAll(asked.Cwd, 0o755); err != nil {
			serve.Note("the image's working directory is missing: ", err.Error())
		}
	}
	become := asked.decide()
	if len(become.Argv) == 0 {
		if err := mountAll("/", withoutInit); err != nil {
			serve.Note("no control groups: ", err.Error())
		}
	} else {
		i.handsOver.Store(true)
	}
	line, err := json.Marshal(become)
	if err == nil {
		_, _ = i.tell.Write(append(append([]byte("identified "), line...), '\n')) // fails once process 1 is another program, which is as well
	}
	return err
}
