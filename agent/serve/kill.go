package serve

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const lastSignal = 64

var signals = map[string]syscall.Signal{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11,
	"USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21,
	"TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}

// signalOf knows names, with SIG before them or not, and the numbers of all signals, those for realtime included.
func signalOf(text string) (syscall.Signal, bool) {
	if signal, known := signals[strings.TrimPrefix(text, "SIG")]; known {
		return signal, true
	}
	number, err := strconv.Atoi(text)
	return syscall.Signal(number), err == nil && number >= 1 && number <= lastSignal
}

func signalName(signal syscall.Signal) string {
	for name, one := range signals {
		if one == signal {
			return name
		}
	}
	return number(int(signal))
}

// endSession sends HUP and, a second later, KILL to everything in the command's session. The kernel gives the session's
// number to nobody else while one process of it is left.
func (p *process) endSession() {
	if signalSession(p.pid, syscall.SIGHUP) == 0 {
		return
	}
	signalSession(p.pid, syscall.SIGCONT) // a stopped process could not even hang up
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if len(members(p.pid)) == 0 {
			return
		}
	}
	for range 20 { // what forks while being killed is met again
		if signalSession(p.pid, syscall.SIGKILL) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func signalSession(session int, signal syscall.Signal) int {
	found := members(session)
	for _, pid := range found {
		_ = syscall.Kill(pid, signal)
	}
	return len(found)
}

// members are the living processes of a session.
func members(session int) (pids []int) {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + name + "/stat")
		if err == nil && sessionOf(text) == session {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sessionOf reads the line of /proc/PID/stat; the name in it may hold anything, so count from its end. A zombie is dead.
func sessionOf(text []byte) int {
	at := bytes.LastIndexByte(text, ')')
	field := bytes.Fields(text[at+1:])
	if at < 0 || len(field) < 4 || field[0][0] == 'Z' {
		return 0
	}
	session, _ := strconv.Atoi(string(field[3]))
	return session
}
