// Package boot is process 1 of a machine, from the kernel's hand to the image's own init, or for good where there is none.
//
// Idea: the server is started first of all and loads nothing itself, so that it answers as soon as the kernel shows its
// port; meanwhile this process loads modules and mounts the root, and tells the server when it may enter. Once the
// daemon has said who the machine is, process 1 turns into the image's init. Whatever fails on the way is said on the
// console and in the hello, and the server goes on: a machine that does not come up should be able to say why. Where it
// stays process 1 it runs what the image is for, once a boot (command.go).
package boot

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"banger/agent/serve"
)

// options come from the kernel's command line.
type options struct {
	lower, upper string
	root         string // one disk that is the root as it is, instead of the two
	port         string // of virtio-serial, unless a vsock port is asked for
	vsock        string
	reset        bool // the machine ends when it restarts; its power cannot be switched off
}

// Main never returns.
func Main() {
	problem := mountAll("/", bare)
	attachConsole()
	asked := readOptions()
	keeper := newKeeper()
	keeper.start()
	go keeper.reap()

	root := root{path: "/"}
	missing := loadModules("/modules")
	if missing != nil {
		serve.Note(missing.Error()) // perhaps nothing needs it; if something does, the next error names both
	}
	var err error
	if asked.lower == "" && asked.root == "" {
		err = furnishOwn()
	} else {
		root, err = mountRoot(asked)
	}
	if err != nil {
		err = errors.Join(err, problem, missing)
		serve.Note("boot failed: ", err.Error())
		keeper.settle("error " + strings.ReplaceAll(err.Error(), "\n", "; "))
		select {}
	}
	keeper.settle("root " + root.path + " " + root.layer)
	<-keeper.identified
	err = handOver(keeper, root, asked.reset)
	if err != nil {
		serve.Note("init does not start, the agent stays: ", err.Error())
		keeper.stay()
	}
	keeper.run(err)
	select {}
}

// handOver makes the root everybody's and becomes the image's init, if there is one.
func handOver(keeper *keeper, root root, reset bool) error {
	keeper.hold()
	err := switchRoot(root)
	keeper.release("root / " + root.held)
	if err != nil {
		return err
	}
	become := keeper.first.decide()
	if len(become.Argv) == 0 {
		return nil
	}
	program, err := become.program()
	if err != nil {
		return err
	}
	if reset {
		if err := stayForTheEnd(program); err != nil {
			serve.Note("a power-off from inside will only halt: ", err.Error())
		}
	}
	return errors.New(program + ": " + syscall.Exec(program, become.Argv, become.environment()).Error())
}

func readOptions() options {
	asked := options{port: "banger.0"}
	line, _ := os.ReadFile("/proc/cmdline")
	for word := range strings.FieldsSeq(string(line)) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "banger.lower":
			asked.lower = value
		case "banger.root":
			asked.root = value
		case "banger.upper":
			asked.upper = value
		case "banger.port":
			asked.port = value
		case "banger.vsock":
			asked.vsock = value
		case "banger.off":
			asked.reset = value == "reset"
		}
	}
	return asked
}

// attachConsole gives us somewhere to complain: an initramfs need not have held /dev/console when the kernel looked for it.
func attachConsole() {
	console, err := syscall.Open("/dev/console", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for fd := range 3 {
		_ = syscall.Dup3(console, fd, 0)
	}
	_ = syscall.Close(console)
}
