"""The steps of a deploy by name, and the stages that an instance goes through."""

from __future__ import annotations

DEPLOY = "deploy"
# The stages of an instance: its root is whole; its agent has answered.
BUILT, DEPLOYED = "built", "deployed"
# What a build takes here, in two parts: most hosts have the base already.
MAKE_BASE, INSTALLED = "build.base", "build.install"

PLAN, BASE, CREATE, INSTALL = "plan", "base image", "create instance", "install framework"
CONFIGURE, START = "configure agent", "start agent"
CONNECT, READY = "connect to agent", "wait until ready"
WAIT_BUILD = "wait for the image being made"
WAIT_IMAGE = "wait for the download"
IMAGE_STEPS = (PLAN, CREATE, CONFIGURE, START, CONNECT, READY)
WAIT_STEPS = (PLAN, WAIT_IMAGE, *IMAGE_STEPS[1:])
BUILD_STEPS = (PLAN, BASE, CREATE, INSTALL, CONFIGURE, START, CONNECT, READY)
ALL_STEPS = (PLAN, WAIT_IMAGE, WAIT_BUILD, *BUILD_STEPS[1:])
