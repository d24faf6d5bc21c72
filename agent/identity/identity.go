// Package identity makes a running system somebody: name, machine-id, keys, clock, randomness and network.
//
// Idea: an image, or a machine restored from a saved one, is nobody until the daemon says who it is. Everything is done
// with system calls and files, because an image may hold no tool at all. Files are written from inside the image's root,
// so a link in a hostile image leads nowhere else; each is replaced in one step. Applying twice is applying once.
package identity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Request is the `identity` request of the wire.
type Request struct {
	Op        string   `json:"op"`
	Hostname  string   `json:"hostname"`
	MachineID string   `json:"machine_id"`
	TimeNS    int64    `json:"time_ns"`
	Entropy   string   `json:"entropy"`
	Network   *Network `json:"network"`
}

// Apply does all of it and returns the public host keys of the image's sshd, if it has one. An error names the part.
func Apply(request *Request) (hostKeys []string, err error) {
	seed, err := base64.StdEncoding.DecodeString(request.Entropy)
	if err != nil || len(seed) < 32 {
		return nil, errors.New("entropy: not 32 bytes or more in base64")
	}
	if err := request.check(); err != nil {
		return nil, err
	}
	steps := []struct {
		part string
		do   func() error
	}{
		{"entropy", func() error { return stir(seed) }}, // first: keys are made of it
		{"time_ns", func() error { return setClock(request.TimeNS) }},
		{"hostname", func() error { return setHostname(request.Hostname) }},
		{"machine_id", func() error { return replace("/etc/machine-id", []byte(request.MachineID+"\n"), 0o444) }},
		{"network", func() error { return configure(request.Network) }},
		{"host_keys", func() (err error) { hostKeys, err = HostKeys(request.MachineID); return err }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return nil, errors.New(step.part + ": " + err.Error())
		}
	}
	return hostKeys, nil
}

func (r *Request) check() error {
	plain := func(c rune) bool {
		return c == '-' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	if r.Hostname == "" || len(r.Hostname) > 64 || strings.ContainsFunc(r.Hostname, func(c rune) bool { return !plain(c) }) {
		return errors.New("hostname: not a host name of 1 to 64 characters")
	}
	if !isMachineID(r.MachineID) {
		return errors.New("machine_id: not 32 hexadecimal digits")
	}
	return nil
}

func isMachineID(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == ""
}

// replace puts what is wanted at path in one step, unless it is there already. A link at path is replaced itself.
func replace(path string, wanted []byte, mode os.FileMode) error {
	if there, err := os.Lstat(path); err == nil && there.Mode() == mode {
		if bytes.Equal(content(path), wanted) {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fresh, err := os.CreateTemp(filepath.Dir(path), ".banger-*")
	if err != nil {
		return err
	}
	defer os.Remove(fresh.Name())
	_, err = fresh.Write(wanted)
	err = errors.Join(err, fresh.Chmod(mode), fresh.Close())
	if err != nil {
		return err
	}
	if found, err := os.Lstat(path); err == nil && found.IsDir() {
		if err := os.Remove(path); err != nil { // an empty one, as images have that were made where something was mounted there
			return err
		}
	}
	return os.Rename(fresh.Name(), path)
}

// longest file of an image's that is read, in bytes.
const longest = 1 << 20

// content of a file that anybody may have put there; nil if it is none, or too long to be meant.
func content(path string) []byte {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	found, err := file.Stat()
	if err != nil || !found.Mode().IsRegular() || found.Size() > longest {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(file, longest))
	if err != nil {
		return nil
	}
	return text
}

// own marks the lines that are ours in a file that also holds others'.
const own = "# banger"

// rewrite replaces our lines of a file and keeps the others.
func rewrite(path, missing string, mode os.FileMode, lines ...string) error {
	text := content(path)
	if text == nil {
		text = []byte(missing)
	}
	var kept []string
	for _, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		if !strings.HasSuffix(line, own) && (line != "" || len(kept) > 0) {
			kept = append(kept, line)
		}
	}
	for _, line := range lines {
		kept = append(kept, line+" "+own)
	}
	return replace(path, []byte(strings.Join(kept, "\n")+"\n"), mode)
}

func setHostname(name string) error {
	if err := sethostname(name); err != nil {
		return err
	}
	if err := replace("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	short, _, _ := strings.Cut(name, ".")
	names := name
	if short != name {
		names += " " + short
	}
	return rewrite("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n", 0o644, "127.0.1.1 "+names)
}
