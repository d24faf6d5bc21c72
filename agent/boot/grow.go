package boot

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	resizeCall  = 0x40086610 // EXT4_IOC_RESIZE_FS, linux/fs/ext4
	sectorBytes = 512
	// superblock is where ext4 has its own, and the places of what is read from it.
	superblock, superblockBytes     = 1024, 1024
	blocksLow, blockSize, blocksTop = 0x4, 0x18, 0x150
)

// grow makes the file system that is mounted at path as large as its disk. Done once: where they agree, nothing is changed.
func grow(path, name string) error {
	device, err := findDisk(name)
	if err != nil {
		return err
	}
	disk, err := diskBytes(device)
	if err != nil {
		return err
	}
	blocks, size, err := extent(device)
	if err != nil || disk/size <= blocks {
		return err
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	wanted := disk / size
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, folder.Fd(), resizeCall, uintptr(unsafe.Pointer(&wanted)))
	if errno != 0 {
		return &os.PathError{Op: "grow to " + strconv.FormatUint(wanted, 10) + " blocks", Path: path, Err: errno}
	}
	return nil
}

// diskBytes is the size of a block device.
func diskBytes(device string) (uint64, error) {
	text, err := os.ReadFile("/sys/class/block/" + filepath.Base(device) + "/size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return sectors * sectorBytes, err
}

// extent is how many blocks the ext4 on a device has, and how large they are.
func extent(device string) (blocks, size uint64, err error) {
	file, err := os.Open(device)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	block := make([]byte, superblockBytes)
	if _, err := file.ReadAt(block, superblock); err != nil {
		return 0, 0, err
	}
	return measure(block)
}

// measure reads a superblock: linux/Documentation/filesystems/ext4/super.rst.
func measure(block []byte) (blocks, size uint64, err error) {
	shift := binary.LittleEndian.Uint32(block[blockSize:])
	if shift > 6 {
		return 0, 0, errors.New("the superblock is none of ext4's")
	}
	low, top := binary.LittleEndian.Uint32(block[blocksLow:]), binary.LittleEndian.Uint32(block[blocksTop:])
	return uint64(top)<<32 | uint64(low), 1024 << shift, nil
}
