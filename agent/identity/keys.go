package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	keyFile = "/etc/ssh/ssh_host_ed25519_key"
	keyType = "ssh-ed25519"
)

// ensureHostKeys gives an image with sshd an ed25519 host key and returns the public keys that it has. A key is marked
// with the machine it was made for: one that a restored machine inherited from its template is replaced, an image's own is not.
func ensureHostKeys(machineID string) ([]string, error) {
	if found, err := os.Stat("/etc/ssh"); err != nil || !found.IsDir() {
		return nil, nil
	}
	mark := keyMark(machineID)
	public, err := os.ReadFile(keyFile + ".pub")
	_, missing := os.Stat(keyFile)
	inherited := err == nil && strings.Contains(string(public), " banger-") && !strings.Contains(string(public), " "+mark)
	if missing != nil || inherited {
		if err := makeHostKey(mark); err != nil {
			return nil, err
		}
	}
	return publicKeys(), nil
}

func keyMark(machineID string) string {
	sum := sha256.Sum256([]byte("banger host key of " + machineID))
	return "banger-" + hex.EncodeToString(sum[:6])
}

func publicKeys() (keys []string) {
	files, _ := filepath.Glob("/etc/ssh/ssh_host_*_key.pub")
	for _, path := range files {
		text, _ := os.ReadFile(path)
		if field := strings.Fields(string(text)); len(field) >= 2 && len(text) < 8192 {
			keys = append(keys, field[0]+" "+field[1])
		}
	}
	slices.SortStableFunc(keys, func(a, b string) int { return rank(a) - rank(b) })
	return keys
}

func rank(key string) int {
	if strings.HasPrefix(key, keyType) {
		return 0
	}
	return 1
}

func makeHostKey(comment string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: privateBlob(public, private, comment)})
	if err := replace(keyFile, block, 0o600); err != nil {
		return err
	}
	line := keyType + " " + base64.StdEncoding.EncodeToString(publicBlob(public)) + " " + comment + "\n"
	return replace(keyFile+".pub", []byte(line), 0o644)
}

func text(dst []byte, value string) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(value))), value...)
}

func publicBlob(public ed25519.PublicKey) []byte { return text(text(nil, keyType), string(public)) }

// privateBlob is the format of OpenSSH's PROTOCOL.key, without a passphrase.
func privateBlob(public ed25519.PublicKey, private ed25519.PrivateKey, comment string) []byte {
	var check [4]byte
	_, _ = rand.Read(check[:])
	secret := append(append([]byte{}, check[:]...), check[:]...)
	secret = append(secret, publicBlob(public)...)
	secret = text(text(secret, string(private)), comment)
	for pad := byte(1); len(secret)%8 != 0; pad++ {
		secret = append(secret, pad)
	}
	whole := text(text(text([]byte("openssh-key-v1\x00"), "none"), "none"), "")
	whole = binary.BigEndian.AppendUint32(whole, 1)
	return text(text(whole, string(publicBlob(public))), string(secret))
}
