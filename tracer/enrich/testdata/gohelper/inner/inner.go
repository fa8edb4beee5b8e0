// Package inner is small enough to be inlined into its callers.
package inner

// Twice calls f; the compiler inlines it.
func Twice(f func()) {
	once(f)
}

func once(f func()) {
	f()
}
