package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The error codes of the page.
const (
	badRequest   = "bad-request"
	unknownOp    = "unknown-op"
	notFound     = "not-found"
	noCommand    = "no-command"
	notPermitted = "not-permitted"
	refused      = "refused"
	failed       = "failed"
)

type refusal struct{ code, message string }

func (r *refusal) Error() string { return r.message }

func refuse(code, message string) error { return &refusal{code, message} }

func number[N ~int | ~uint32](n N) string { return strconv.FormatInt(int64(n), 10) }

func describe(fault any) string { return fmt.Sprint(fault) }

type plainRequest struct {
	Op string `json:"op"`
}

type dialRequest struct {
	Op   string `json:"op"`
	Host string `json:"host"`
	Port int    `json:"port"`
}

type controlRequest struct {
	Resize *window `json:"resize"`
	Signal string  `json:"signal"`
}

type window struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// handle answers one request with exactly one end.
func handle(machine *Machine, st *stream, text []byte) {
	var plain plainRequest
	if err := json.Unmarshal(text, &plain); err != nil {
		st.fail(refuse(badRequest, "request is not an object with an op: "+err.Error()))
		return
	}
	answer, err := perform(machine, st, plain.Op, text)
	if err != nil {
		st.fail(err)
		return
	}
	st.ok(answer)
	if plain.Op == "poweroff" {
		st.drained()
		machine.PowerOff()
	}
}

func perform(machine *Machine, st *stream, op string, text []byte) (any, error) {
	switch op {
	case "exec":
		return doExec(machine, st, text)
	case "command":
		return doCommand(machine, st, text)
	case "dial":
		return doDial(st, text)
	case "identity":
		return doIdentity(machine, st, text)
	case "pack":
		return doPack(machine, st, text)
	case "unpack":
		return doUnpack(machine, st, text)
	case "ssh":
		return doSSH(machine, st, text)
	case "ssh-keys":
		return doSSHKeys(machine, st, text)
	case "ping", "info", "sync", "quiet", "poweroff":
	default:
		return nil, refuse(unknownOp, "unknown op "+strconv.Quote(op))
	}
	if err := Parse(text, &plainRequest{}); err != nil {
		return nil, err
	}
	switch op {
	case "info":
		return machine.info(), nil
	case "poweroff":
		if machine.PowerOff == nil {
			return nil, refuse(failed, "this agent may not power anything off")
		}
		syscall.Sync()
	case "quiet":
		if machine.Quiet == nil {
			return nil, refuse(failed, "this agent may not end what runs beside it")
		}
		machine.Quiet()
	case "sync":
		syscall.Sync()
	}
	return struct{}{}, nil
}

// Parse is strict: a field that we do not know may be one that matters.
func Parse(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return refuse(badRequest, strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func doIdentity(machine *Machine, st *stream, text []byte) (any, error) {
	if machine.Identify == nil {
		return nil, refuse(failed, "this agent may not change the system it runs in")
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	keys, err := machine.Identify(text)
	if err != nil {
		return nil, err
	}
	machine.Identified.Store(true)
	if keys == nil {
		keys = []string{}
	}
	return map[string][]string{"host_keys": keys}, nil
}

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

func (m *Machine) info() any {
	var uptime syscall.Sysinfo_t
	text, _ := os.ReadFile("/proc/uptime")
	seconds, _, _ := strings.Cut(string(text), " ")
	exact, err := strconv.ParseFloat(seconds, 64)
	if err != nil && syscall.Sysinfo(&uptime) == nil {
		exact = float64(uptime.Uptime)
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	name := initName()
	return map[string]any{
		"boot_id": bootID(), "uptime_ms": int64(exact * 1000), "kernel": strings.TrimSpace(string(kernel)),
		"init": name, "booted": m.booted(name),
	}
}

// initName is what runs as process 1: agent, systemd, or the name of whatever it is. Empty while nobody can tell: at the hand-over to the image's
// init, /proc is on its way into the root that this process is in already.
func initName() string {
	first, err := os.Stat("/proc/1/exe")
	own, ownErr := os.Stat("/proc/self/exe")
	if err != nil || ownErr != nil {
		return ""
	}
	if os.SameFile(first, own) {
		return "agent"
	}
	path, err := os.Readlink("/proc/1/exe") // the hand-over is one way: what was not the agent a moment ago is the image's own
	if err != nil {
		return ""
	}
	return filepath.Base(path)
}

// booted asks systemd whether its job queue has run empty; other inits cannot be asked.
func (m *Machine) booted(name string) bool {
	if name == "agent" && m.HasInit != nil {
		return m.Identified.Load() && !m.HasInit()
	}
	if name == "" {
		return false
	}
	if name != "systemd" {
		return true
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	state := strings.TrimSpace(string(answer))
	return state == "running" || state == "degraded"
}
