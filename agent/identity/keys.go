package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	keyFolder = "/etc/ssh"
	keyFile   = "ssh_host_ed25519_key"
	keyType   = "ssh-ed25519"
	// stamp, in the folder of the keys, says for which machine they were made or kept.
	stamp = ".banger-host-keys"
)

// HostKeys gives an image with sshd an ed25519 host key and returns the public keys that it has, ed25519 first. Keys that
// came with the image, or that a restored machine inherited from its template, are everybody's: all of them go. Those
// that somebody puts there later are this machine's own and stay.
func HostKeys(machineID string) ([]string, error) {
	if !isMachineID(machineID) {
		return nil, errors.New("machine_id: not 32 hexadecimal digits")
	}
	return hostKeys(keyFolder, machineID)
}

func hostKeys(folder, machineID string) ([]string, error) {
	if found, err := os.Stat(folder); err != nil || !found.IsDir() {
		return []string{}, nil
	}
	mark := keyMark(machineID)
	if found, _ := os.ReadFile(filepath.Join(folder, stamp)); string(found) != mark {
		files, _ := filepath.Glob(filepath.Join(folder, "ssh_host_*_key"))
		for _, path := range files {
			if err := errors.Join(missing(os.Remove(path)), missing(os.Remove(path+".pub"))); err != nil {
				return nil, err
			}
		}
	}
	if _, err := os.Stat(filepath.Join(folder, keyFile)); err != nil {
		if err := makeHostKey(folder); err != nil {
			return nil, err
		}
	}
	if err := replace(filepath.Join(folder, stamp), []byte(mark), 0o644); err != nil { // last: a boot that was cut begins anew
		return nil, err
	}
	return publicKeys(folder), nil
}

func missing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func keyMark(machineID string) string {
	sum := sha256.Sum256([]byte("banger host keys of " + machineID))
	return hex.EncodeToString(sum[:8]) + "\n"
}

func publicKeys(folder string) []string {
	keys := []string{}
	files, _ := filepath.Glob(filepath.Join(folder, "ssh_host_*_key.pub"))
	for _, path := range files {
		text, _ := os.ReadFile(path)
		if field := strings.Fields(string(text)); len(field) >= 2 && len(text) < 8192 && len(keys) < 8 {
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

func makeHostKey(folder string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	const comment = "banger"
	path := filepath.Join(folder, keyFile)
	block := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: privateBlob(public, private, comment)})
	if err := replace(path, block, 0o600); err != nil {
		return err
	}
	line := keyType + " " + base64.StdEncoding.EncodeToString(publicBlob(public)) + " " + comment + "\n"
	return replace(path+".pub", []byte(line), 0o644)
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
