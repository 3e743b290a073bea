//go:build !linux

package sdk

import "os"

// exitWithHost ends the process when the one that started it is gone.
func exitWithHost() { go pollParent(os.Getppid()) }
