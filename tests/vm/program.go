// A program that is a whole image: it needs no file beside itself, and tells what it finds. As process 1 it is an init that does nothing but reap.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if os.Getpid() == 1 {
		for {
			if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
				_ = syscall.Pause()
			}
		}
	}
	switch strings.Join(os.Args[1:min(2, len(os.Args))], "") {
	case "wait":
		wait()
	case "serve":
		serve()
	case "kill":
		pid, _ := strconv.Atoi(os.Args[2])
		number, _ := strconv.Atoi(os.Args[3])
		_ = syscall.Kill(pid, syscall.Signal(number))
	case "cat":
		for _, path := range os.Args[2:] {
			text, err := os.ReadFile(path)
			say(path, string(text))
			if err != nil {
				os.Exit(1)
			}
		}
	default:
		report()
	}
}

func say(name, text string) { _, _ = os.Stdout.WriteString(name + "=" + strconv.Quote(text) + "\n") }

func report() {
	say("args", strings.Join(os.Args, " "))
	for _, name := range []string{"PATH", "HOME", "USER", "GREETING"} {
		say(name, os.Getenv(name))
	}
	folder, _ := os.Getwd()
	say("cwd", folder)
	groups, _ := os.Getgroups()
	numbers := []string{strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())}
	for _, group := range groups {
		numbers = append(numbers, strconv.Itoa(group))
	}
	say("ids", strings.Join(numbers, " "))
	first, _ := os.Readlink("/proc/1/exe")
	say("first", first)
	here, _ := os.Stdin.Stat()
	say("terminal", strconv.FormatBool(here.Mode()&os.ModeCharDevice != 0 && here.Mode()&os.ModeDevice != 0 && isTerminal()))
	for _, path := range []string{"/proc/self", "/dev/null", "/dev/pts/ptmx", "/dev/fd", "/dev/shm", "/sys/class", "/sys/fs/cgroup/cgroup.procs", "/run", "/tmp"} {
		found, err := os.Stat(path)
		if err != nil {
			say(path, err.Error())
		} else {
			say(path, found.Mode().String())
		}
	}
}

func isTerminal() bool {
	name, _ := os.Readlink("/proc/self/fd/0")
	return strings.HasPrefix(name, "/dev/pts/")
}

func wait() {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGINT, syscall.SIGTERM)
	_, _ = os.Stdout.WriteString("ready\n")
	if <-heard == syscall.SIGINT {
		os.Exit(42)
	}
	os.Exit(43)
}

// serve tells that it has begun, opens what it writes to by its name as servers with log files do, and ends on SIGQUIT alone.
func serve() {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGQUIT)
	signal.Ignore(syscall.SIGTERM)
	began, _ := os.OpenFile("/tmp/began", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	_, _ = began.WriteString("x")
	log, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	if err != nil {
		say("log", err.Error())
		os.Exit(1)
	}
	report()
	_, _ = log.WriteString("serving\n")
	<-heard
	_, _ = log.WriteString("told to quit\n")
	os.Exit(7)
}
