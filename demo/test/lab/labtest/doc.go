// Package labtest builds test programs of this module, once, and runs them in
// guests of the lab. Only tests import it.
package labtest
