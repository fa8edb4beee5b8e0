// As helper.c, for the names of C++. The name is in the last column, as it holds
// spaces.
#include <cstdio>

extern "C" __attribute__((noinline)) void report(int line, const char *name)
{
	printf("address %lx %s %d\n", (unsigned long)__builtin_return_address(0), name, line);
}

namespace net {
template <typename T> struct Session {
	T value;
	static inline __attribute__((always_inline)) void purge(int n)
	{
		report(__LINE__, "net::Session<int>::purge(int)");
		if (n)
			fflush(stdout);
	}
	__attribute__((noinline)) int drop(T n)
	{
		report(__LINE__, "net::Session<int>::drop(int)");
		purge(n);
		return value + n;
	}
};
namespace {
__attribute__((noinline)) int hidden(int n)
{
	report(__LINE__, "net::(anonymous namespace)::hidden(int)");
	return n + 1;
}
} // namespace
int run(int n) { return hidden(n) + 1; }
} // namespace net

int main()
{
	net::Session<int> s{1};
	int n = s.drop(2) + net::run(3);
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return n == 0;
}
