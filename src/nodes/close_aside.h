// Closing files of which nobody knows how long that takes.
#pragma once

#include "uvfio/fd.h"

namespace uvfio::nodes {

// close(2) of a client's file waits for whoever serves it, in FUSE as long as its server likes. So
// it is done by a thread that nobody waits for, not even the end of the process. When many such
// threads are still busy the caller's waits itself: then it is one that a client does not mind to
// keep.
void close_aside(Fd fd);

}  // namespace uvfio::nodes
