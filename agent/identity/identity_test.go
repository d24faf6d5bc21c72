package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAReplacedFileIsWholeAndALinkIsNotFollowed(t *testing.T) {
	folder := t.TempDir()
	victim, path := filepath.Join(folder, "victim"), filepath.Join(folder, "hostname")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := replace(path, []byte("box\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, _ := os.ReadFile(victim)
	fresh, _ := os.ReadFile(path)
	there, _ := os.Lstat(path)
	if string(old) != "untouched" || string(fresh) != "box\n" || there.Mode() != 0o644 {
		t.Errorf("%q %q %s", old, fresh, there.Mode())
	}
	if left, _ := os.ReadDir(folder); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOurLinesAreReplacedAndOthersKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	for _, name := range []string{"first", "second"} {
		if err := rewrite(path, "127.0.0.1 localhost\n", 0o644, "127.0.1.1 "+name); err != nil {
			t.Fatal(err)
		}
	}
	if text, _ := os.ReadFile(path); string(text) != "127.0.0.1 localhost\n127.0.1.1 second # banger\n" {
		t.Errorf("%q", text)
	}
}

func TestAWrongRequestIsRefusedByThePartThatIsWrong(t *testing.T) {
	sound := Request{Hostname: "box", MachineID: strings.Repeat("0f", 16)}
	if err := sound.check(); err != nil {
		t.Fatal(err)
	}
	for part, wrong := range map[string]Request{
		"hostname":   {Hostname: "a b", MachineID: sound.MachineID},
		"machine_id": {Hostname: "box", MachineID: strings.Repeat("0F", 16)},
	} {
		if err := wrong.check(); err == nil || !strings.HasPrefix(err.Error(), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
	if _, err := Apply(&Request{Entropy: base64.StdEncoding.EncodeToString(make([]byte, 31))}); err == nil || !strings.HasPrefix(err.Error(), "entropy") {
		t.Error(err)
	}
}

func TestAPrivateKeyIsLaidOutAsOpenSSHReadsIt(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	blob := privateBlob(public, private, "me")
	if !bytes.HasPrefix(blob, []byte("openssh-key-v1\x00\x00\x00\x00\x04none\x00\x00\x00\x04none\x00\x00\x00\x00\x00\x00\x00\x01")) {
		t.Errorf("%q", blob[:40])
	}
	if bytes.Count(blob, publicBlob(public)) != 2 || !bytes.Contains(blob, private) {
		t.Error("the keys are not in it")
	}
}

func keysIn(t *testing.T, folder string) string {
	t.Helper()
	keys, err := hostKeys(folder, strings.Repeat("0f", 16))
	if err != nil || len(keys) == 0 || !strings.HasPrefix(keys[0], "ssh-ed25519 ") {
		t.Fatal(keys, err)
	}
	return keys[0]
}

func TestKeysOfAnotherMachineAreReplacedAndOnesOwnAreKept(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"ssh_host_rsa_key": "baked", "ssh_host_rsa_key.pub": "ssh-rsa baked", "ssh_host_key_notes": "mine"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := keysIn(t, folder)
	if again := keysIn(t, folder); again != first {
		t.Error("made anew at the second start")
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "ssh_host_*")); len(left) != 3 {
		t.Error(left)
	}
	if err := os.WriteFile(filepath.Join(folder, "ssh_host_ed25519_key.pub"), []byte("ssh-ed25519 AAAA of the user's own\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if own := keysIn(t, folder); own != "ssh-ed25519 AAAA" {
		t.Error("a key that the user has put there did not stay: ", own)
	}
	restored, err := hostKeys(folder, strings.Repeat("f0", 16))
	if err != nil || restored[0] == first || restored[0] == "ssh-ed25519 AAAA" {
		t.Error(restored, err)
	}
}

func TestAnImageWithoutSSHHasNoKeys(t *testing.T) {
	if keys, err := hostKeys(filepath.Join(t.TempDir(), "none"), strings.Repeat("0f", 16)); keys == nil || len(keys) != 0 || err != nil {
		t.Error(keys, err)
	}
}

func TestStructuresHaveTheKernelsSizes(t *testing.T) {
	if four := mask(20); four != [4]byte{255, 255, 240, 0} {
		t.Error(four)
	}
	if four := mask(0); four != [4]byte{} {
		t.Error(four)
	}
}
