package serve

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"banger/agent/wire"
)

const (
	xattrRecord = "SCHILY.xattr."
	// bareRoot is where the root is seen without what is mounted in it, in a mount namespace of one thread. The folder is one that every machine has.
	bareRoot = "/dev/shm"
	// ownLine marks the lines that package identity has written into a file which also holds others'.
	ownLine = "# banger"
)

// keptXattrs are the attributes that belong to a file, not to the file system it is on.
var keptXattrs = []string{"user.", "security.", "system.posix_acl_", "trusted."}

type packRequest struct {
	Op      string   `json:"op"`
	Without []string `json:"without"`
}

// doPack sends the machine's root as a tar: what is on its disks, and nothing of what is mounted over them.
func doPack(machine *Machine, st *stream, text []byte) (any, error) {
	var request packRequest
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	from, to := io.Pipe()
	st.onReset(func() { _ = from.Close() })
	st.opened(struct{}{})
	packed := make(chan error, 1)
	whole := bufio.NewWriterSize(to, 8*maxPiece) // heads and small files fill frames together
	packing := &packer{root: bareRoot, without: request.Without, out: tar.NewWriter(whole), links: map[[2]uint64]string{}}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread with its own mounts ends with this goroutine
		err := bare()
		if err == nil {
			err = errors.Join(packing.all(), whole.Flush())
		}
		packed <- err
		_ = to.Close()
	}()
	st.pump(wire.Data, from)
	_ = from.Close()
	if err := <-packed; err != nil {
		return nil, err
	}
	st.eof()
	return map[string]int{"entries": packing.entries}, nil
}

// bare gives the calling thread a view of the root without its mounts.
func bare() error {
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return &os.PathError{Op: "unshare", Path: "/", Err: err}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return &os.PathError{Op: "make private", Path: "/", Err: err}
	}
	if err := syscall.Mount("/", bareRoot, "", syscall.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind", Path: bareRoot, Err: err}
	}
	return nil
}

// packer writes a tree in the order of its names. Files with several names are there once.
type packer struct {
	root    string
	without []string // patterns of paths from the root, which begin with '/'
	out     *tar.Writer
	links   map[[2]uint64]string
	entries int
}

func (p *packer) all() error {
	if err := p.folder(""); err != nil {
		return err
	}
	return p.out.Close()
}

func (p *packer) folder(name string) error {
	entries, err := os.ReadDir(filepath.Join(p.root, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(name, entry.Name())
		if p.left(path) {
			continue
		}
		if err := p.entry(path); err != nil {
			return err
		}
		if entry.IsDir() {
			if err := p.folder(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *packer) left(path string) bool {
	return slices.ContainsFunc(p.without, func(pattern string) bool {
		fits, _ := filepath.Match(pattern, "/"+path)
		return fits
	})
}

func (p *packer) entry(name string) error {
	path := filepath.Join(p.root, name)
	found, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	raw, known := found.Sys().(*syscall.Stat_t)
	if !known || found.Mode()&os.ModeSocket != 0 { // a socket is nobody's without its process
		return nil
	}
	head := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(raw.Mode & 0o7777), Uid: int(raw.Uid), Gid: int(raw.Gid), ModTime: found.ModTime(),
	}
	if err := p.kind(head, path, raw); err != nil {
		return err
	}
	p.entries++
	if head.Typeflag != tar.TypeReg {
		return p.out.WriteHeader(head)
	}
	return p.file(head, path)
}

// kind fills in what depends on what it is.
func (p *packer) kind(head *tar.Header, path string, raw *syscall.Stat_t) (err error) {
	id := [2]uint64{raw.Dev, raw.Ino}
	format := raw.Mode & syscall.S_IFMT
	if first, again := p.links[id]; again && format != syscall.S_IFDIR {
		head.Typeflag, head.Linkname = tar.TypeLink, first
		return nil
	}
	if raw.Nlink > 1 && format != syscall.S_IFDIR {
		p.links[id] = head.Name
	}
	switch format {
	case syscall.S_IFDIR:
		head.Typeflag, head.Name = tar.TypeDir, head.Name+"/"
	case syscall.S_IFLNK:
		head.Typeflag = tar.TypeSymlink
		head.Linkname, err = os.Readlink(path)
		return err
	case syscall.S_IFCHR, syscall.S_IFBLK:
		head.Typeflag = tar.TypeChar
		if format == syscall.S_IFBLK {
			head.Typeflag = tar.TypeBlock
		}
		head.Devmajor, head.Devminor = major(raw.Rdev), minor(raw.Rdev)
	case syscall.S_IFIFO:
		head.Typeflag = tar.TypeFifo
	default:
		head.Typeflag, head.Size = tar.TypeReg, raw.Size
	}
	head.PAXRecords = xattrs(path)
	return nil
}

// file writes head and content: exactly as much as head says, whatever becomes of the file meanwhile.
func (p *packer) file(head *tar.Header, path string) error {
	if head.Name == "etc/hosts" {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return p.write(head, bytes.NewReader(others(text)), len(others(text)))
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return p.write(head, file, int(head.Size))
}

func (p *packer) write(head *tar.Header, content io.Reader, size int) error {
	head.Size = int64(size)
	if err := p.out.WriteHeader(head); err != nil {
		return errors.New(head.Name + " cannot be packed: " + err.Error())
	}
	written, err := io.Copy(p.out, io.LimitReader(content, head.Size))
	if err == nil && written < head.Size {
		_, err = io.CopyN(p.out, zeros{}, head.Size-written)
	}
	return err
}

type zeros struct{}

func (zeros) Read(into []byte) (int, error) {
	clear(into)
	return len(into), nil
}

// others are the lines of a file that are not ours.
func others(text []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(bytes.TrimRight(line, "\n"), []byte(ownLine)) {
			kept = append(kept, line...)
		}
	}
	return kept
}

func xattrs(path string) map[string]string {
	size, err := syscall.Listxattr(path, nil)
	if err != nil || size <= 0 {
		return nil
	}
	names := make([]byte, size)
	if size, err = syscall.Listxattr(path, names); err != nil {
		return nil
	}
	found := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		fits := slices.ContainsFunc(keptXattrs, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if !fits || strings.HasPrefix(name, "trusted.overlay.") || strings.Contains(name, "=") {
			continue
		}
		value := make([]byte, 1<<16)
		if count, err := syscall.Getxattr(path, name, value); err == nil {
			found[xattrRecord+name] = string(value[:count])
		}
	}
	return found
}

// major and minor are glibc's gnu_dev_major and gnu_dev_minor.
func major(device uint64) int64 { return int64(device>>8&0xfff | device>>32&^0xfff) }

func minor(device uint64) int64 { return int64(device&0xff | device>>12&^0xff) }
