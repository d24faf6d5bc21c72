package power

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestSysvinitIsAskedForARunlevelInItsOwnRecord(t *testing.T) {
	asked := sysvRequest('6')
	if len(asked) != 384 {
		t.Errorf("it is %d bytes long", len(asked))
	}
	for place, want := range []uint32{0x03091969, 1, '6', 1, 0} {
		if found := binary.NativeEndian.Uint32(asked[4*place:]); found != want {
			t.Errorf("number %d is %#x and not %#x", place, found, want)
		}
	}
}

func TestOnlyAPipeThatSomebodyReadsIsWrittenTo(t *testing.T) {
	folder := t.TempDir()
	pipe, file, link := filepath.Join(folder, "pipe"), filepath.Join(folder, "file"), filepath.Join(folder, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	if tell(pipe, []byte("x")) {
		t.Error("nobody reads, and yet it is told")
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, path := range []string{file, link, filepath.Join(folder, "missing")} {
		if tell(path, []byte("x")) {
			t.Errorf("%s is written to", path)
		}
	}
	text := make([]byte, 9)
	if !tell(pipe, []byte("reboot")) {
		t.Error("a pipe with a reader is not written to")
	}
	if count, err := reader.Read(text); err != nil || string(text[:count]) != "reboot" {
		t.Errorf("read: %q, %v", text[:count], err)
	}
	if text, _ := os.ReadFile(file); len(text) != 0 {
		t.Error("the file was written to")
	}
}

func TestRunitsProgramIsFoundUnderAnyName(t *testing.T) {
	folder := t.TempDir()
	program, init, other := filepath.Join(folder, "runit-init"), filepath.Join(folder, "init"), filepath.Join(folder, "other")
	for _, path := range []string{program, other} {
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(program, init); err != nil {
		t.Fatal(err)
	}
	if found := runitInit(other, init); found != program {
		t.Errorf("found %q", found)
	}
	if found := runitInit(other, filepath.Join(folder, "missing")); found != "" {
		t.Errorf("found %q", found)
	}
}
