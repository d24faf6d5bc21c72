package serve

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type unpackRequest struct {
	Op    string  `json:"op"`
	Path  string  `json:"path"`
	Into  bool    `json:"into"`
	Owner *string `json:"owner"`
	Mode  *uint32 `json:"mode"`
}

// doUnpack lays what a tar holds into the machine, links of the image's folders followed as any program would.
func doUnpack(machine *Machine, st *stream, text []byte) (any, error) {
	var request unpackRequest
	if err := Parse(text, &request); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(request.Path) {
		return nil, refuse(badRequest, "the path to unpack to does not begin with '/'")
	}
	if err := machine.hold(st); err != nil {
		return nil, err
	}
	work := &unpacker{target: filepath.Clean(request.Path), into: request.Into, mode: request.Mode}
	if request.Owner != nil {
		owner, err := ownerOf(*request.Owner)
		if err != nil {
			return nil, err
		}
		work.owner = &owner
	}
	from, to := io.Pipe()
	st.opened(struct{}{})
	go func() {
		st.receive(to)
		st.mu.Lock()
		whole := st.inEnded && !st.gone
		st.mu.Unlock()
		if whole {
			_ = to.Close()
		} else {
			_ = to.CloseWithError(errors.New("the host gave up"))
		}
	}()
	err := work.all(tar.NewReader(from))
	if err == nil {
		_, err = io.Copy(io.Discard, from)
	}
	_ = from.Close()
	if err != nil {
		return nil, err
	}
	return map[string]int{"entries": work.entries}, nil
}

// ownerOf is `user`, `uid`, either with `:group` or `:gid`. Of a number alone the group has the same number.
func ownerOf(asked string) (account, error) {
	found, err := findAccount(asked)
	if number, ok := id(asked); ok && err == nil {
		found.gid = number
	}
	return found, err
}

// unpacker lays entries below target; unless into, and unless target is a folder, the one entry gets its name.
type unpacker struct {
	target  string
	into    bool
	owner   *account
	mode    *uint32
	entries int
	folders []*tar.Header // by their whole names, to get their times at the end
}

func (u *unpacker) all(archive *tar.Reader) error {
	base, rename := u.target, false
	if found, err := os.Stat(u.target); u.into {
		if err := u.makeAll(u.target); err != nil {
			return err
		}
	} else if err != nil || !found.IsDir() {
		base, rename = filepath.Dir(u.target), true
	}
	for {
		head, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name, err := inside(head.Name)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if rename {
			_, rest, _ := strings.Cut(name, "/")
			name = filepath.Join(filepath.Base(u.target), rest)
		}
		if err := u.entry(head, archive, base, filepath.Join(base, name)); err != nil {
			return err
		}
		u.entries++
	}
	for _, head := range slices.Backward(u.folders) {
		_ = os.Chtimes(head.Name, time.Time{}, head.ModTime)
	}
	return nil
}

// inside is a name as a path from where it is unpacked to.
func inside(name string) (string, error) {
	parts := []string{}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", refuse(badRequest, "the entry "+strconv.Quote(name)+" leads outside")
		}
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

// makeAll makes folders that are missing, as whose they are to be.
func (u *unpacker) makeAll(path string) error {
	if found, err := os.Stat(path); err == nil {
		if !found.IsDir() {
			return &os.PathError{Op: "make folder", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if err := u.makeAll(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if u.owner != nil {
		if err := os.Lchown(path, int(u.owner.uid), int(u.owner.gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o755)
}

func (u *unpacker) entry(head *tar.Header, content io.Reader, base, path string) error {
	if err := u.makeAll(filepath.Dir(path)); err != nil {
		return err
	}
	found, err := os.Lstat(path)
	there := err == nil
	if head.Typeflag == tar.TypeDir {
		if there && !found.IsDir() {
			if real, err := os.Stat(path); err != nil || !real.IsDir() {
				return &os.PathError{Op: "make folder", Path: path, Err: syscall.ENOTDIR}
			}
		}
		if !there {
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
		}
		u.folders = append(u.folders, &tar.Header{Name: path, ModTime: head.ModTime})
		return u.settle(head, path)
	}
	if there {
		if err := os.Remove(path); err != nil { // a folder with something in it is not replaced by a file
			return err
		}
	}
	if err := u.lay(head, content, base, path); err != nil || head.Typeflag == tar.TypeLink {
		return err
	}
	return u.settle(head, path)
}

func (u *unpacker) lay(head *tar.Header, content io.Reader, base, path string) error {
	switch head.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Close())
	case tar.TypeSymlink:
		return os.Symlink(head.Linkname, path)
	case tar.TypeLink:
		target, err := inside(head.Linkname)
		if err != nil {
			return err
		}
		return os.Link(filepath.Join(base, target), path)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK, tar.TypeFifo: syscall.S_IFIFO}[head.Typeflag]
		return syscall.Mknod(path, kind|0o600, device(head.Devmajor, head.Devminor))
	}
	return refuse(badRequest, "the entry "+strconv.Quote(head.Name)+" is of a kind that is not known")
}

// settle gives owner, mode, attributes and time. The owner comes first: a change of it takes setuid away.
func (u *unpacker) settle(head *tar.Header, path string) error {
	uid, gid, mode := head.Uid, head.Gid, uint32(head.Mode&0o7777)
	if u.owner != nil {
		uid, gid = int(u.owner.uid), int(u.owner.gid)
	}
	if u.mode != nil {
		mode = *u.mode & 0o7777
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return err
	}
	if head.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := syscall.Chmod(path, mode); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	for name, value := range head.PAXRecords {
		if attribute, is := strings.CutPrefix(name, xattrRecord); is {
			if err := syscall.Setxattr(path, attribute, []byte(value), 0); err != nil {
				return &os.PathError{Op: "set " + attribute, Path: path, Err: err}
			}
		}
	}
	if head.Typeflag == tar.TypeDir {
		return nil
	}
	return os.Chtimes(path, time.Time{}, head.ModTime)
}

// device is glibc's gnu_dev_makedev.
func device(major, minor int64) int {
	return int(minor&0xff | major&0xfff<<8 | minor&^0xff<<12 | major&^0xfff<<32)
}
