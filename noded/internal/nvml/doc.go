// Package nvml asks the NVIDIA driver about the machine's GPUs, through the driver's management library.
//
// It has two seams. Driver and Device are the library as far as we use it: thin, with cgo behind them, and nothing decided
// in them. Machine is everything above: what is listed, how a model's name becomes a type, who is linked to whom, what
// counts as a fault. Machine runs in tests on the mock machines of go-nvml, and on drivers written for the tests.
//
// The library is opened at run time; without it, or without a driver, a machine simply has no GPUs. Calling a function that
// an old library lacks would end the process, so every call is made only after Init succeeded and the symbol was found.
// A call may hang in the driver for good. That is not dealt with here but by running all of this in a process of its own,
// fettle-nvml, which the node daemon can leave behind.
package nvml
