// func Pointer() uintptr
TEXT ·Pointer(SB), 4|512, $0-8 // NOSPLIT|NOFRAME
	MOVQ BP, ret+0(FP)
	RET
