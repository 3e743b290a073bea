// Package version holds the version that the build stamped into the binaries.
package version

// Version is set with -ldflags -X; a plain `go build` leaves "dev".
var Version = "dev"
