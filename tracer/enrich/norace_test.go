//go:build !race

package enrich

const raced = false
