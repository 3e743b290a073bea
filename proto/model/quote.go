package model

import "github.com/fettle-hpc/fettle/proto/gres"

// quote repeats a user's text on one line, cut to a sane length.
func quote(s string) string { return gres.Quote(s) }
