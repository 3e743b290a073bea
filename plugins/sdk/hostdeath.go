package sdk

import (
	"os"
	"time"
)

// pollParent looks once a second, for systems without a descriptor for a process.
func pollParent(parent int) {
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			os.Exit(0)
		}
	}
}
