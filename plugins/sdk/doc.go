// Package sdk lets a program be a fettle plugin in a few lines.
//
// A plugin is its own executable. The host (a controller or a node daemon) starts it, the two shake hands on standard
// output, and from then on the host calls it over gRPC on a private Unix socket. A scheduling policy is
//
//	func main() {
//		sdk.ServeScheduling(sdk.Info{Name: "sched-mine", Version: "1.0"}, &myPolicy{})
//	}
//
// and a preemption policy or a launcher is the same with ServePreemption or ServeLauncher. None returns: the process ends when the host closes it or dies.
//
// Standard output belongs to the handshake. Log through log/slog: the default logger writes what the host understands
// to standard error, and the host passes it on, cut short and rate-limited. The environment is almost empty; settings
// come through Configure, and the key "log_level" (debug, info, warn, error) is taken by this package.
//
// A panic in a method is logged with its stack and answered as an error, so that one bad request does not take the
// plugin down.
package sdk
