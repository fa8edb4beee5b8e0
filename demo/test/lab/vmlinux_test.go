package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"testing"
)

// bzImage makes an image around a payload, with the header's fields where the
// boot protocol has them.
func bzImage(payload []byte) []byte {
	const setup, gap = 3, 0x140 // sectors of real-mode code after the boot sector; bytes before the payload
	img := make([]byte, (setup+1)*512+gap)
	le := binary.LittleEndian
	img[0x1f1] = setup
	copy(img[0x202:], "HdrS")
	le.PutUint16(img[0x206:], 0x20f)
	le.PutUint32(img[0x248:], gap)
	le.PutUint32(img[0x24c:], uint32(len(payload)+4))
	img = append(img, payload...)
	img = append(img, 0xde, 0xad, 0xbe, 0xef) // the uncompressed size; no program may see it
	return append(img, "what follows the payload"...)
}

// elfWithNotes makes an ELF image with one PT_NOTE segment.
func elfWithNotes(notes []byte) []byte {
	var b bytes.Buffer
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	binary.Write(&b, binary.LittleEndian, header)
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: uint64(len(notes))})
	b.Write(notes)
	return b.Bytes()
}

func note(name string, kind uint32, desc string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
	b = binary.LittleEndian.AppendUint32(b, kind)
	pad := func(s string) string { return s + "\x00\x00\x00"[:(4-len(s)%4)%4] }
	return append(append(b, pad(name)...), pad(desc)...)
}

func TestVmlinux(t *testing.T) {
	pvh := elfWithNotes(append(note("GNU\x00", 3, "build"), note("Xen\x00", 18, "12345678")...))
	for _, program := range []string{"gzip", "xz", "zstd"} {
		if _, err := exec.LookPath(program); err != nil && program != "gzip" {
			continue // the lab installs it where kernels are fetched
		}
		cmd := exec.Command(program, "-c")
		cmd.Stdin = bytes.NewReader(pvh)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := vmlinux(t.Context(), bzImage(packed))
		if err != nil {
			t.Errorf("%s: %v", program, err)
		} else if !bytes.Equal(got, pvh) {
			t.Errorf("%s: not the image that was compressed", program)
		}
	}
}

func TestVmlinuxErrors(t *testing.T) {
	pack := func(b []byte) []byte {
		cmd := exec.Command("gzip", "-c")
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := bzImage(pack(elfWithNotes(note("Xen\x00", 18, "12345678"))))
	old := bytes.Clone(good)
	binary.LittleEndian.PutUint16(old[0x206:], 0x207)
	for name, img := range map[string][]byte{
		"empty":           nil,
		"no bzImage":      make([]byte, 4096),
		"old protocol":    old,
		"cut off":         good[:len(good)-60],
		"no compression":  bzImage([]byte("plain bytes")),
		"no ELF":          bzImage(pack([]byte("text"))),
		"no PVH note":     bzImage(pack(elfWithNotes(note("Xen\x00", 17, "12345678")))),
		"not Xen's note":  bzImage(pack(elfWithNotes(note("Abc\x00", 18, "12345678")))),
		"note overflows":  bzImage(pack(elfWithNotes([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00\x00\x00Xen\x00")))),
		"damaged payload": bzImage(pack(elfWithNotes(note("Xen\x00", 18, "12345678")))[:40]),
	} {
		if got, err := vmlinux(t.Context(), img); err == nil {
			t.Errorf("%s: %d bytes and no error", name, len(got))
		}
	}
}
