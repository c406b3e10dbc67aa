"""The fields of a JobSet, down to its containers; for yaml_file.check_schema."""

from __future__ import annotations

# Fields by the API types: kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go; Kubernetes
# batch/v1 and core/v1 of 1.33. `object` is not looked into.
_METADATA = {
    **dict.fromkeys(("name", "namespace", "generateName"), str),
    **dict.fromkeys(("annotations", "labels"), dict),
}
_CONTAINER = {
    "name": str,
    "image": str,
    "args": [str],
    "command": [str],
    "workingDir": str,
    "env": [
        {
            "name": str,
            "value": str,
            "valueFrom": {
                "fieldRef": {"fieldPath": str, "apiVersion": str},
                **dict.fromkeys(("secretKeyRef", "configMapKeyRef", "resourceFieldRef"), object),
            },
        }
    ],
    "volumeMounts": [
        {"name": str, "mountPath": str, "subPath": str, "readOnly": bool, "mountPropagation": str}
    ],
    "imagePullPolicy": str,
    "resources": {"limits": dict, "requests": dict, "claims": object},
    **dict.fromkeys(
        ("envFrom", "ports", "securityContext", "lifecycle", "livenessProbe", "readinessProbe"),
        object,
    ),
    **dict.fromkeys(
        ("startupProbe", "volumeDevices", "restartPolicy", "stdin", "tty", "resizePolicy"), object
    ),
    **dict.fromkeys(("terminationMessagePath", "terminationMessagePolicy"), str),
}
_POD = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "activeDeadlineSeconds": int,
    "volumes": [dict],
    "nodeSelector": object,
    **dict.fromkeys(("serviceAccountName", "schedulerName", "priorityClassName", "subdomain"), str),
    **dict.fromkeys(("dnsPolicy", "hostname", "nodeName", "runtimeClassName"), str),
    **dict.fromkeys(("hostNetwork", "hostIPC", "hostPID", "shareProcessNamespace"), bool),
    **dict.fromkeys(("automountServiceAccountToken", "enableServiceLinks", "hostUsers"), bool),
    **dict.fromkeys(("affinity", "tolerations", "imagePullSecrets", "securityContext"), object),
    **dict.fromkeys(("topologySpreadConstraints", "resourceClaims", "schedulingGates"), object),
    **dict.fromkeys(("dnsConfig", "hostAliases", "overhead", "readinessGates", "os"), object),
}
_JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "backoffLimitPerIndex": int,
    "activeDeadlineSeconds": int,
    "ttlSecondsAfterFinished": int,
    "maxFailedIndexes": int,
    "podReplacementPolicy": str,
    "suspend": bool,
    "managedBy": str,
    "successPolicy": object,
    "podFailurePolicy": {
        "rules": [
            {
                "action": str,
                "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
                "onPodConditions": [{"type": str, "status": str}],
            }
        ]
    },
    "template": {"metadata": _METADATA, "spec": _POD},
}
SCHEMA = {
    "apiVersion": str,
    "kind": str,
    "metadata": _METADATA,
    "spec": {
        "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": str,
            "rules": [
                {
                    "name": str,
                    "action": str,
                    "onJobFailureReasons": [str],
                    "onJobFailureMessagePatterns": [str],
                    "targetReplicatedJobs": [str],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": str,
                "groupName": str,
                "replicas": int,
                "dependsOn": object,
                "template": {"metadata": _METADATA, "spec": _JOB},
            }
        ],
        "successPolicy": object,
        "startupPolicy": object,
        "suspend": bool,
        "coordinator": object,
        "managedBy": str,
        "ttlSecondsAfterFinished": int,
        "volumeClaimPolicies": object,
    },
}
