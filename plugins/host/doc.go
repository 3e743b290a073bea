// Package host runs plugins for a controller or a node daemon, and holds them at arm's length.
//
// A plugin is a separate process that is not trusted to be there, to answer in time, to answer sense or to stop
// talking. What this package promises whoever calls it:
//
//   - A call returns by its deadline, whatever the plugin does. A policy gets one call at a time.
//   - An answer is checked before it is handed on: shape, size, echo, names, paths, printable text.
//   - A plugin that ends is started again with growing pauses; one that ends more than five times in ten minutes is
//     disabled until Enable. Three failures in a minute open its breaker for 30 s, doubling up to ten minutes: it is
//     killed, not called, and then put on probation.
//   - The queue is always ordered: Scheduling answers from the built-in policy, and says so, whenever the plugin cannot.
//     Scores of two policies are never mixed in one order. Preemption does the same for the choice of victims.
//   - The process has an empty environment but for an allow list, a private socket directory, no way to gain
//     privileges, a bound on its memory, its own process group, and dies with the host. Its log lines are cut short,
//     escaped and rate-limited.
//
// Registry finds launchers by training method and keeps them warm. Scheduling, Preemption and Launcher are the typed faces of
// Plugin, which is the supervised process. go-plugin starts the process and negotiates; the connection, its limits and
// the end of the process are handled here (see process and launch for why).
package host
