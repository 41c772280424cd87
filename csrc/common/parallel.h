// A loop over independent items on several threads, for the decoder and the encoder, which do not use torch. The torch
// ops have parallel_for() (common/cpu_backend.h), which runs on torch's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace dgcn {

/// Calls work(i) once for every i in [0, count), on `threads` threads (0: one per core), one of which is the caller's.
/// If items fail, throws the exception of the first of them after all have been tried.
template <typename Work>
void for_each_in_threads(std::size_t count, int threads, const Work& work) {
  if (threads < 0) throw std::invalid_argument("threads must be at least 0, got " + std::to_string(threads));
  const std::size_t requested = threads > 0 ? static_cast<std::size_t>(threads) : std::thread::hardware_concurrency();
  const std::size_t extra_threads = std::max<std::size_t>(std::min(requested, count), 1) - 1;

  std::vector<std::exception_ptr> errors(count);
  std::atomic<std::size_t> next{0};
  const auto process_items = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {  // carried to the calling thread
        errors[i] = std::current_exception();
      }
    }
  };

  std::vector<std::thread> pool;
  pool.reserve(extra_threads);
  try {
    while (pool.size() < extra_threads) pool.emplace_back(process_items);
  } catch (const std::system_error&) {
    // The system is out of threads: those that were started, and this one, do the work.
  } catch (const std::bad_alloc&) {
    // There is no memory for another thread: the same.
  }
  process_items();
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace dgcn
