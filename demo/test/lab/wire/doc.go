// Package wire is what the host and the guest of a lab run say to each other:
// the Spec that the guest's init finds in its initramfs, and the frames on the
// virtio-serial port between them.
//
// One port carries everything, so that order is kept: a command's last output
// arrives before its exit status. A frame is a kind (1 byte), a length (4
// bytes, big-endian) and that many bytes.
//
// Arguments, environment and paths are byte slices and not strings, because a
// Unix argument need not be UTF-8 and JSON strings must be.
package wire
