"""From a store elsewhere into this node's own: bundles and layer images, each byte verified. It knows no Kubernetes."""
