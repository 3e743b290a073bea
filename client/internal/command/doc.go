// Package command holds fettle's commands: one file or two for each of fsubmit, fqueue, fcancel, finfo, flog, fctl and
// fettle itself. It parses the command line, asks the controllers through package api and shows the answer through
// package render.
//
// Exit statuses are 0 for done, 1 for refused or failed, 2 for a command line that makes no sense, 130 for interrupted.
// Every error is one line on stderr: `fsubmit: error: WHAT: PROBLEM; REMEDY`.
package command
