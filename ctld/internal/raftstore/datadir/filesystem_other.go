//go:build !linux

package datadir

// checkFilesystem knows no magic numbers outside Linux.
func checkFilesystem(string, bool) (string, error) { return "", nil }
