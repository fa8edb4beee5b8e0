//go:build race

package enrich

// raced says that the race detector is on. Its shadow memory is beyond what the process
// that reads symbols may have.
const raced = true
