#pragma once
#include <errno.h>
#include <infiniband/verbs.h>
#include <string.h>

// ibv_query_port is a macro over a versioned structure, which Swift does not import. 1 when the port is active.
static inline int lego_verbs_port_is_active(struct ibv_context *context, uint8_t port) {
  struct ibv_port_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  return ibv_query_port(context, port, &attributes) == 0 && attributes.state == IBV_PORT_ACTIVE;
}

// ibv_reg_mr is a macro, too.
static inline struct ibv_mr *lego_verbs_register(struct ibv_pd *domain, void *memory, size_t bytes, int access) {
  return ibv_reg_mr(domain, memory, bytes, access);
}
