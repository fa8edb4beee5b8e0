/*
 * Prints "address HEX NAME LINE": return addresses and code addresses, and the
 * function and line that they are in. Then waits for its input to end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) void report(const char *name, int line)
{
	printf("address %lx %s %d\n", (unsigned long)__builtin_return_address(0), name, line);
}

static inline __attribute__((always_inline)) void inlined_close(int n)
{
	report("inlined_close", __LINE__);
	if (n)
		fflush(stdout);
}

__attribute__((noinline)) int end_session(int n)
{
	report("end_session", __LINE__);
	inlined_close(n);
	return n + 1;
}

__attribute__((noinline, section(".text.far"))) int far_away(int n)
{
	report("far_away", __LINE__);
	return n + 2;
}

int main(void)
{
	int n = end_session(1) + far_away(2);
	report("main", __LINE__);

	printf("address %lx close 0\n", (unsigned long)&close + 4);
	void *vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
	void *vf = vdso ? dlsym(vdso, "__vdso_clock_gettime") : NULL;
	if (!vf && vdso)
		vf = dlsym(vdso, "__kernel_clock_gettime");
	if (vf)
		printf("vdso %lx\n", (unsigned long)vf + 1);
	char *jit = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("anon %lx\n", (unsigned long)jit + 0x10);
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return n == 0;
}
