package verdict

// Text is what is known of a cause beyond one connection: tcpbye explain, the
// man page and the README print it.
type Text struct {
	What   string   // what happens, in the kernel and on the wire
	Prove  string   // how to prove it with standard tools
	Do     string   // what to do; short, it is also the verdict's advice
	Belief string   // what people believe, in their words; "" none
	Truth  string   // what is true instead
	Refs   []string // RFC sections, man pages, kernel functions
}
