// Package model holds what every part of fettle must agree on about jobs: the one table of legal state changes, the short
// codes and reason texts that people see, priorities and their bands, the limits on what may be asked for, and the checks
// and defaults of a job's specification and of the cluster's policy.
//
// Everything in it is pure. The client checks with it before it sends, the API before it proposes, and the replicated
// state machine when it applies, so all three refuse the same things in the same words.
package model
