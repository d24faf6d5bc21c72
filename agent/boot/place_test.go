package boot

import (
	"os"
	"path/filepath"
	"testing"
)

// laid is a root with a folder, a file, and links of all kinds.
func laid(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, path := range []string{"proc", "var/run"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"run": "/var/run", "sys": "/proc", "tmp": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(root, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "dev"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestWhatAMachineNeedsBecomesAFolderOfTheImagesOwn(t *testing.T) {
	root := laid(t)
	for path, mode := range map[string]uint32{"proc": 0o755, "run": 0o755, "sys": 0o755, "dev": 0o755, "tmp": 0o1777, "new": 0o755} {
		way, done, err := folder(root, path, mode)
		if err != nil {
			t.Fatal(path, err)
		}
		if err := os.WriteFile(filepath.Join(way, "by-"+path), nil, 0o600); err != nil {
			t.Error(path, err)
		}
		done()
	}
	for _, path := range []string{"proc/by-proc", "var/run/by-run", "sys/by-sys", "dev/by-dev", "tmp/by-tmp", "new/by-new"} {
		if _, err := os.Lstat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	if found, err := os.Lstat(filepath.Join(root, "run")); err != nil || found.Mode()&os.ModeSymlink == 0 {
		t.Error("the link that leads to a folder is gone")
	}
	if found, err := os.Stat(filepath.Join(root, "tmp")); err != nil || found.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Error(found.Mode(), err)
	}
	if _, err := os.Lstat("/proc/by-sys"); err == nil {
		t.Error("a link led out of the root")
	}
}

func TestAFolderInThePlaceOfAFileThatIsFullIsAnError(t *testing.T) {
	root := laid(t)
	if _, _, err := folder(filepath.Join(root, "dev"), "proc", 0o755); err == nil {
		t.Error("a file was taken for a root")
	}
}
