package serve

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/agent/wire"
)

// packedTree is a tree of all that a packer may meet, as a tar.
func packedTree(t *testing.T, without ...string) []byte {
	t.Helper()
	root := t.TempDir()
	for _, path := range []string{"etc/ssh", "srv/deep", "empty"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lay := func(path, content string, mode uint32) {
		full := filepath.Join(root, path)
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Chmod(full, mode); err != nil {
			t.Fatal(err)
		}
	}
	lay("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 otter # banger\n::1 ip6\n", 0o644)
	lay("etc/machine-id", "0\n", 0o444)
	lay("etc/ssh/ssh_host_ed25519_key", "key", 0o600)
	lay("srv/tool", "#!/bin/sh\n", 0o4755)
	lay("srv/gr\xff\xfcn "+strings.Repeat("x", 200), "long", 0o640)
	when := time.Unix(1_600_000_000, 5000)
	_ = os.Chtimes(filepath.Join(root, "srv/tool"), when, when)
	for _, err := range []error{
		os.Link(filepath.Join(root, "srv/tool"), filepath.Join(root, "srv/twin")),
		os.Symlink("../nowhere", filepath.Join(root, "srv/link")),
		syscall.Mkfifo(filepath.Join(root, "srv/fifo"), 0o622),
		syscall.Mknod(filepath.Join(root, "srv/socket"), syscall.S_IFSOCK|0o600, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	packing := &packer{root: root, without: without, out: tar.NewWriter(&out), links: map[[2]uint64]string{}}
	if err := packing.all(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func names(t *testing.T, data []byte) (found []string) {
	t.Helper()
	for archive := tar.NewReader(bytes.NewReader(data)); ; {
		head, err := archive.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, string(head.Typeflag)+head.Name)
	}
}

func TestATreeIsPackedInOrderWithoutWhatIsTheMachines(t *testing.T) {
	got := strings.Join(names(t, packedTree(t, "/etc/machine-id", "/etc/ssh/ssh_host_*")), " ")
	long := "srv/gr\xff\xfcn " + strings.Repeat("x", 200)
	expect(t, got, "5empty/ 5etc/ 0etc/hosts 5etc/ssh/ 5srv/ 5srv/deep/ 6srv/fifo 0"+long+" 2srv/link 0srv/tool 1srv/twin")
}

func TestWhatWasPackedIsUnpackedAsItWas(t *testing.T) {
	target := t.TempDir()
	work := &unpacker{target: filepath.Join(target, "made/here"), into: true}
	if err := work.all(tar.NewReader(bytes.NewReader(packedTree(t)))); err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(target, "made/here", path) }
	hosts, _ := os.ReadFile(at("etc/hosts"))
	expect(t, string(hosts), "127.0.0.1 localhost\n::1 ip6\n")
	tool, err := os.Lstat(at("srv/tool"))
	twin, _ := os.Lstat(at("srv/twin"))
	if err != nil || !os.SameFile(tool, twin) || tool.Mode() != os.ModeSetuid|0o755 || tool.ModTime().UnixNano() != 1_600_000_000_000_005_000 {
		t.Error(tool.Mode(), tool.ModTime(), err)
	}
	link, _ := os.Readlink(at("srv/link"))
	expect(t, link, "../nowhere")
	again := &unpacker{target: at("."), into: true}
	if err := again.all(tar.NewReader(bytes.NewReader(packedTree(t)))); err != nil {
		t.Error("over itself: ", err)
	}
}

func one(name string, kind byte, link string) []byte {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	head := &tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o640, Uid: os.Getuid(), Gid: os.Getgid()}
	if kind == tar.TypeReg {
		head.Size = 4
	}
	_ = archive.WriteHeader(head)
	if kind == tar.TypeReg {
		_, _ = archive.Write([]byte("text"))
	}
	_ = archive.Close()
	return out.Bytes()
}

func TestAFileGetsTheNameOfItsTargetUnlessThatIsAFolder(t *testing.T) {
	target := t.TempDir()
	mode := uint32(0o4711)
	for _, path := range []string{"new/name", "."} {
		work := &unpacker{target: filepath.Join(target, path), mode: &mode}
		if err := work.all(tar.NewReader(bytes.NewReader(one("file", tar.TypeReg, "")))); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"new/name", "file"} {
		found, err := os.Stat(filepath.Join(target, path))
		if err != nil || found.Mode() != os.ModeSetuid|0o711 {
			t.Error(path, found, err)
		}
	}
}

func TestEntriesThatLeadOutsideOrReplaceAFolderAreRefused(t *testing.T) {
	for _, data := range [][]byte{one("../x", tar.TypeReg, ""), one("a", tar.TypeLink, "../../etc/passwd"), one("full", tar.TypeReg, ""), {1, 2, 3}} {
		target := t.TempDir()
		_ = os.MkdirAll(filepath.Join(target, "full/of"), 0o755)
		if err := (&unpacker{target: target, into: true}).all(tar.NewReader(bytes.NewReader(data))); err == nil {
			t.Error("it was taken: ", names(t, data))
		}
	}
}

func TestATarComesInByTheWire(t *testing.T) {
	host := serving(t, ready())
	host.hello(7)
	target := filepath.Join(t.TempDir(), "into")
	stream := host.open(`{"op":"unpack","path":"`+target+`","into":true,"owner":null,"mode":null}`, 4)
	host.next(stream) // opened
	host.frame(wire.Data, stream, one("a/b", tar.TypeReg, ""))
	host.frame(wire.EOF, stream, nil)
	expect(t, host.finish(stream).end, `{"ok":{"entries":1}}`)
	text, _ := os.ReadFile(filepath.Join(target, "a/b"))
	expect(t, string(text), "text")
	bad := host.open(`{"op":"unpack","path":"`+target+`","into":true,"owner":null,"mode":null}`, 4)
	host.next(bad)
	host.frame(wire.Data, bad, one("../b", tar.TypeReg, ""))
	expect(t, host.finish(bad).end, `{"error":{"code":"bad-request","message":"the entry \"../b\" leads outside"}}`)
	expect(t, host.ask(`{"op":"unpack","path":"x","into":true,"owner":null,"mode":null}`).end,
		`{"error":{"code":"bad-request","message":"the path to unpack to does not begin with '/'"}}`)
}

func TestDevicesHaveTheKernelsNumbers(t *testing.T) {
	for _, pair := range [][2]int64{{1, 3}, {259, 70000}, {4000, 1}} {
		if made := uint64(device(pair[0], pair[1])); major(made) != pair[0] || minor(made) != pair[1] {
			t.Error(pair, major(made), minor(made))
		}
	}
}
