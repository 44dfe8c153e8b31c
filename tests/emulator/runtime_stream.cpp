// SPDX-License-Identifier: Apache-2.0
// The runtime's streams, events, host functions and graphs.
#include "runtime.hpp"

#include <algorithm>

using namespace emulator;

struct CUevent_st : Event {};
struct CUgraph_st {
  std::shared_ptr<Capture> capture;
};
struct CUgraphExec_st {
  std::shared_ptr<Capture> capture;
  std::vector<Stream*> lanes;
};

namespace emulator {

Stream* stream_of(cudaStream_t handle) {
  Runtime& runtime = Runtime::get();
  if (handle == nullptr || handle == cudaStreamLegacy) return runtime.null_stream(this_thread.device);
  if (handle == cudaStreamPerThread) {
    if (!this_thread.own_stream) this_thread.own_stream = runtime.create_stream(this_thread.device, 0, 0);
    return this_thread.own_stream;
  }
  auto* const stream = reinterpret_cast<Stream*>(handle);
  if (!runtime.owns(stream)) throw cudaErrorInvalidResourceHandle;
  return stream;
}

void refuse_capture(Stream* stream) {
  if (stream->capture) throw cudaErrorStreamCaptureUnsupported;
}

void wait_for(Stream* stream) {
  refuse_capture(stream);
  Runtime& runtime = Runtime::get();
  if (auto const last = stream->last) {
    runtime.run_until([&] { return last->done; });
    runtime.host_saw(*last);
  }
  runtime.host_saw(*stream);
  if (!runtime.fault_kind.empty()) throw sticky_error();
}

void wait_for_device(int device) {
  for (Stream* const stream : Runtime::get().all_streams()) {
    if (stream->device == device && !stream->capture) wait_for(stream);
  }
}

}  // namespace emulator

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return api([&](Runtime& r) {
    *stream = reinterpret_cast<cudaStream_t>(r.create_stream(this_thread.device, flags, priority));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return api([&](Runtime& r) {
    r.destroy_stream(stream_of(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return api([&](Runtime&) {
    wait_for(stream_of(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return api([&](Runtime& r) {
    Stream* const s = stream_of(stream);
    refuse_capture(s);
    r.some_progress();
    if (!r.fault_kind.empty()) return sticky_error();
    if (!r.idle(s)) return cudaErrorNotReady;
    r.host_saw(*s);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  return api([&](Runtime&) { return *flags = stream_of(stream)->flags, cudaSuccess; });
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  return api([&](Runtime&) { return *priority = stream_of(stream)->priority, cudaSuccess; });
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  return api([&](Runtime&) { return *device = stream_of(stream)->device, cudaSuccess; });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return api([&](Runtime& r) {
    Stream* const s = stream_of(stream);
    if (!event->work) return cudaSuccess;  // never recorded: nothing to wait for
    if (event->capture && !s->capture) {   // the stream joins the capture
      s->capture = event->capture;
      s->capture->streams.push_back(s);
    }
    auto const wait = r.make("wait for event", nullptr);
    wait->after.push_back(event->work);
    r.enqueue(s, wait);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api([&](Runtime&) {
    *event = new CUevent_st;
    (*event)->flags = flags;
    (*event)->device = this_thread.device;
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api([&](Runtime&) {
    delete event;
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return api([&](Runtime& r) {
    Stream* const s = stream_of(stream);
    if (s->device != event->device) return cudaErrorInvalidResourceHandle;
    event->work = r.make("record event", nullptr);
    event->capture = s->capture;
    r.enqueue(s, event->work);
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api([&](Runtime& r) {
    auto const work = event->work;
    if (!work) return cudaSuccess;
    if (event->capture && event->capture->streams[0]->capture) return cudaErrorCapturedEvent;
    r.run_until([&] { return work->done; });
    r.host_saw(*work);
    return r.fault_kind.empty() ? cudaSuccess : sticky_error();
  });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api([&](Runtime& r) {
    auto const work = event->work;
    if (!work) return cudaSuccess;
    r.some_progress();
    if (!r.fault_kind.empty()) return sticky_error();
    if (!work->done) return cudaErrorNotReady;
    r.host_saw(*work);
    return cudaSuccess;
  });
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  return api([&](Runtime&) {
    if (!start->work || !end->work || (start->flags | end->flags) & cudaEventDisableTiming)
      return cudaErrorInvalidResourceHandle;
    if (!start->work->done || !end->work->done) return cudaErrorNotReady;
    *ms = static_cast<float>(end->work->finished_at - start->work->finished_at);
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return api([&](Runtime& r) {
    auto const work = r.make("host function", [function, data] { function(data); });
    work->unlocked = true;
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* data, unsigned) {
  return api([&](Runtime& r) {
    auto const work = r.make("callback", [=] { function(stream, cudaSuccess, data); });
    work->unlocked = true;
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

// ---------------------------------------------------------------- graphs
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return api([&](Runtime& r) {
    Stream* const s = stream_of(stream);
    if (s->null) return cudaErrorStreamCaptureImplicit;
    if (s->capture) return cudaErrorIllegalState;
    r.begin_capture(s);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return api([&](Runtime& r) {
    Stream* const s = stream_of(stream);
    if (!s->capture || s->capture->streams[0] != s) return cudaErrorIllegalState;
    // Work on another captured stream must flow back into the origin, or it is "unjoined".
    Capture const& capture = *s->capture;
    bool unjoined = false;
    for (size_t lane = 1; lane < capture.streams.size(); ++lane) {
      Work const* last = nullptr;
      for (auto const& node : capture.nodes) {
        if (node.stream == lane) last = node.work.get();
      }
      bool flows = last == nullptr;
      for (auto const& node : capture.nodes) {
        for (auto const& before : node.work->after) flows = flows || (before.get() == last && node.stream != lane);
      }
      unjoined = unjoined || !flows;
    }
    auto const all = r.end_capture(s);
    if (unjoined) return cudaErrorStreamCaptureUnjoined;
    *graph = new CUgraph_st{all};
    return cudaSuccess;
  });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return api([&](Runtime&) {
    *status = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
  });
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return api([&](Runtime& r) {
    auto* const e = new CUgraphExec_st{graph->capture, {}};
    constexpr unsigned non_blocking = 1;
    for (Stream* const s : graph->capture->streams) e->lanes.push_back(r.create_stream(s->device, non_blocking, 0));
    *exec = e;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return api([&](Runtime& r) {
    r.launch(*exec->capture, exec->lanes, stream_of(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return api([&](Runtime& r) {
    for (Stream* const s : exec->lanes) r.destroy_stream(s);
    delete exec;
    return cudaSuccess;
  });
}

}  // extern "C"
