// Package local runs a whole cluster on this machine for `fettle up`: real controllers and node daemons in sessions of
// their own, with their data, logs and pid files in one directory of the user's.
//
// Nothing watches over the daemons. Up starts what is missing and may be called any number of times; Down ends what is
// recorded, after making sure that a recorded process id still belongs to the process that was started.
package local
