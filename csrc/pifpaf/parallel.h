// A loop over independent items on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace dgcn::pifpaf {

/// Calls work(i) once for every i in [0, count), on `threads` threads (0: as many as the machine has) of which the
/// caller's is one. Where items fail, the exception of the first of them is thrown after all have been tried.
template <typename Work>
void parallel_for(std::size_t count, int threads, const Work& work) {
  if (threads < 0) throw std::invalid_argument("threads must be at least 0, got " + std::to_string(threads));
  const std::size_t wanted = threads > 0 ? static_cast<std::size_t>(threads) : std::thread::hardware_concurrency();
  const std::size_t helpers = std::max<std::size_t>(std::min(wanted, count), 1) - 1;

  std::vector<std::exception_ptr> errors(count);
  std::atomic<std::size_t> next{0};
  const auto take_items = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {  // carried to the calling thread
        errors[i] = std::current_exception();
      }
    }
  };

  std::vector<std::thread> pool;
  pool.reserve(helpers);
  try {
    while (pool.size() < helpers) pool.emplace_back(take_items);
  } catch (const std::system_error&) {
    // The machine has no thread left to give: those that started, and this one, do the work.
  }
  take_items();
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace dgcn::pifpaf
