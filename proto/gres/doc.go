// Package gres parses and prints the short strings that people type about resources and time: GPU requests, lists of
// nodes, durations, begin times, memory sizes, device pins, lists of jobs, arrays, dependencies and constraints.
//
// Everything in it is pure: no I/O, no clock (a begin time is told what "now" is), no state. Parsers accept any byte
// string, never panic, never allocate more than the documented limits allow, and answer an *Error that renders to one
// line. Printers write what the parsers read.
package gres
