// A small pool of sleeping worker threads. Work is split by index, never by time, so that results do not
// depend on the number of threads.
#pragma once
#include <functional>

namespace vq {

// Calls body(first, last) over disjoint ranges that cover [0, count), on at most `threads` threads (the caller
// is one of them). Ranges are multiples of `grain` long but for the last. Returns when all of them are done; an exception of
// a body is rethrown here. Nested calls and calls from several threads at once run correctly (one at a time).
void parallel_for(long count, long grain, int threads, const std::function<void(long, long)>& body);

}  // namespace vq
