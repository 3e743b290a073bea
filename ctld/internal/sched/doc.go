// Package sched plans: which waiting jobs start where, and which running ones make room.
//
// A Planner follows the nodes, what runs, what waits and the policy change by change. A plan goes through the waiting jobs in
// the order of their scores. The first blocked job of each class of GPUs keeps exact cards from the earliest time on at which
// it can have them; jobs behind it start only where that cannot delay it (EASY backfill). A job that no node could hold keeps
// nothing and blocks nobody. The planner is pure: rows.go alone knows the job table, everything else its own types.
package sched
