// The guest's half of banger: one static binary that is /init of the initramfs, and the server that the daemon talks to.
//
// Idea: what it does follows from how it was started. As process 1 it boots the machine (package boot) and starts itself
// again as the server, under a name that an init's last kill spares; as systemd's last step it ends the machine; `serve` is the same server on a host, for tests.
package main

import (
	"os"
	"strconv"

	"banger/agent/boot"
	"banger/agent/port"
	"banger/agent/serve"
)

var version = "0.0.0"

func main() {
	if err := run(os.Args[1:]); err != nil {
		serve.Note(err.Error())
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case os.Getpid() == 1 && boot.IsEnding(os.Args):
		boot.End()
	case os.Getpid() == 1:
		boot.Main()
	case boot.IsServer(os.Args):
		return boot.Server(version, os.Args)
	case len(arguments) == 3 && arguments[0] == "serve":
		return onHost(arguments[1], arguments[2])
	}
	_, err := os.Stdout.WriteString("banger-agent " + version + "\n")
	return err
}

// onHost serves without touching the system it runs in.
func onHost(option, argument string) error {
	var from port.Port
	var err error
	switch option {
	case "--socket":
		from, err = port.Listen(argument)
	case "--stdio-fd":
		var fd int
		if fd, err = strconv.Atoi(argument); err == nil {
			from, err = port.Descriptor(uintptr(fd))
		}
	default:
		return &os.PathError{Op: "serve", Path: option, Err: os.ErrInvalid}
	}
	if err != nil {
		return err
	}
	machine := serve.NewMachine(version)
	machine.Ready("")
	return serve.Forever(from, machine)
}
