package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
)

// Emulated, the kernel's decompressor takes longer than all the rest of the
// boot (5 s of 8 for 6.1, whose image is xz). So the ELF image inside is taken
// out once, by the host, and QEMU boots it through its PVH entry. Such a boot
// has no KASLR, which the decompressor does.

// payload returns the compressed kernel inside a bzImage, without the
// uncompressed size (4 bytes) that follows it. The layout is that of
// Documentation/arch/x86/boot.rst.
func payload(bzImage []byte) ([]byte, error) {
	const (
		setupSects  = 0x1f1 // 1 byte: size of the real-mode code, in sectors of 512 bytes, less one
		magic       = 0x202 // "HdrS"
		version     = 0x206 // 2 bytes; the payload's fields exist since 2.08
		offset      = 0x248 // 4 bytes, from the end of the real-mode code
		length      = 0x24c // 4 bytes
		headerBytes = 0x250
	)
	if len(bzImage) < headerBytes || string(bzImage[magic:magic+4]) != "HdrS" {
		return nil, fmt.Errorf("not a bzImage")
	}
	le := binary.LittleEndian
	if v := le.Uint16(bzImage[version:]); v < 0x208 {
		return nil, fmt.Errorf("a bzImage of boot protocol %d.%02d does not say where its payload is", v>>8, v&0xff)
	}
	sects := uint64(bzImage[setupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + uint64(le.Uint32(bzImage[offset:]))
	end := start + uint64(le.Uint32(bzImage[length:]))
	if end > uint64(len(bzImage)) || end < start+4 {
		return nil, fmt.Errorf("the bzImage's payload (bytes %d to %d) is not inside its %d bytes", start, end, len(bzImage))
	}
	return bzImage[start : end-4], nil
}

// decompress decompresses a kernel's payload with the host's program for it.
func decompress(ctx context.Context, payload []byte) ([]byte, error) {
	for _, c := range []struct{ magic, program string }{
		{"\xfd7zXZ\x00", "xz"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"\x1f\x8b", "gzip"},
		{"\x02\x21\x4c\x18", "lz4"},
	} {
		if !bytes.HasPrefix(payload, []byte(c.magic)) {
			continue
		}
		cmd := exec.CommandContext(ctx, c.program, "-dc")
		cmd.Stdin = bytes.NewReader(payload)
		out, err := cmd.Output()
		if err != nil {
			return nil, commandError("decompress the kernel with "+c.program, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("the kernel is compressed in a way that the lab does not know (it begins with % x)", payload[:min(8, len(payload))])
}

// hasPVH reports whether an ELF image has the note that names its PVH entry
// (XEN_ELFNOTE_PHYS32_ENTRY), without which QEMU cannot boot it.
func hasPVH(image []byte) (bool, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return false, err
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return false, err
		}
		const physEntry = 18
		for len(notes) >= 12 {
			order := file.ByteOrder
			name, desc, kind := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:])), order.Uint32(notes[8:])
			size := 12 + (name+3)&^3 + (desc+3)&^3
			if size > uint64(len(notes)) {
				break
			}
			if kind == physEntry && string(notes[12:12+name]) == "Xen\x00" {
				return true, nil
			}
			notes = notes[size:]
		}
	}
	return false, nil
}

// vmlinux returns the kernel in a bzImage as an ELF image that QEMU can boot.
func vmlinux(ctx context.Context, bzImage []byte) ([]byte, error) {
	packed, err := payload(bzImage)
	if err != nil {
		return nil, err
	}
	image, err := decompress(ctx, packed)
	if err != nil {
		return nil, err
	}
	if ok, err := hasPVH(image); err != nil {
		return nil, fmt.Errorf("read the decompressed kernel: %w", err)
	} else if !ok {
		return nil, fmt.Errorf("the kernel has no PVH entry")
	}
	return image, nil
}
