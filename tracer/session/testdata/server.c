/* Accepts three connections and ends each in another way, on a known line. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int next(int l)
{
	int s = accept(l, NULL, NULL);

	if (s < 0)
		exit(2);
	return s;
}

static __attribute__((noinline)) void by_close(int s)
{
	close(s); /* by close */
	asm volatile("");
}

static __attribute__((noinline)) void by_shutdown(int s)
{
	char c;

	shutdown(s, SHUT_WR); /* by shutdown */
	while (read(s, &c, 1) > 0)
		;
}

static __attribute__((noinline)) void by_exit(void)
{
	exit(0); /* by exit */
}

int main(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (l < 0 || bind(l, (struct sockaddr *)&a, n) || listen(l, 3) || getsockname(l, (struct sockaddr *)&a, &n))
		return 1;
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);
	by_close(next(l));
	by_shutdown(next(l));
	next(l);
	getchar();
	by_exit();
	return 0;
}
