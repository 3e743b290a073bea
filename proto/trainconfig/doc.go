// Package trainconfig reads a training config (a flat YAML mapping, as LLaMA-Factory takes it) strictly and within
// limits, and finds out by which method it trains. It looks at nothing but the bytes that it is given.
//
// The controller and the commands use it to choose a launcher; the launchers build on it.
package trainconfig
