package boot

import (
	"encoding/binary"
	"testing"
)

func TestASuperblockSaysHowManyBlocksOfWhichSize(t *testing.T) {
	block := make([]byte, superblockBytes)
	binary.LittleEndian.PutUint32(block[blocksLow:], 131072)
	binary.LittleEndian.PutUint32(block[blocksTop:], 1)
	binary.LittleEndian.PutUint32(block[blockSize:], 2)
	blocks, size, err := measure(block)
	if err != nil || blocks != 1<<32+131072 || size != 4096 {
		t.Errorf("%d blocks of %d bytes, %v", blocks, size, err)
	}
}

func TestWhatIsNoSuperblockIsAnError(t *testing.T) {
	block := make([]byte, superblockBytes)
	binary.LittleEndian.PutUint32(block[blockSize:], 0xFFFF)
	if _, _, err := measure(block); err == nil {
		t.Error("it was taken for one")
	}
}
